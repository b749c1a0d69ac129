"""From prepared histories to a trained model: batches in, fitting, choices on the validation part, ranking, saving. Knows no polars but in
`prepared`, and no DVC."""
