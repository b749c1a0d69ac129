"""Does what just happened reach the next answer, fast, and is no event lost?"""
