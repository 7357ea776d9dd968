"""One reader per publisher's layout: from the folder of a dataset, as its archives unpack, to a `Listing`.

A reader looks at nothing but names and annotations; what is missing raises FileNotFoundError, what is damaged
DataError. Each says what page or code its layout was read from.
"""
