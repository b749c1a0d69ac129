"""Which ids of shoppers are one person's.

In: the canonical tables. Out: whose an event of somebody who had not signed in is (visitors.py); links from what is certain (evidence.py) and from what is likely enough (likely.py); people within limits (people.py).
"""
