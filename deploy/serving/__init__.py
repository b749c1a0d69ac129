"""The bento: answers over HTTP from an artefact. Knows onnxruntime and numpy; nothing of promotion or training."""
