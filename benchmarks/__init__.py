"""What is measured. Each module is a program."""

import pipelines  # noqa: F401  sets what libraries read of threads before any of them is imported
