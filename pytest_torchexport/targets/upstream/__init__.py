"""Facts about other people's software, as rows of data: their refusals, load errors and defects.

Each row has a date, the versions it was seen on, a pattern, a cause, a remedy, and an example,
which is its test. ``rows`` reads them; nobody else knows their format.
"""
