"""Other people's files, read right or refused in one sentence.

records.py turns a file of any form into records of text (delimited.py, documents.py, columnar.py, on the lines of text.py); mapping.py is what a person
may say of it; values.py decides what the texts of a column mean; look.py tells what a file is and proposal.py guesses a mapping, with its reasons;
translation.py makes the canonical tables. pipelines/data/doctor.py shows all of it.
"""
