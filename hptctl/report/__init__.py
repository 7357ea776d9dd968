"""The report: tracked runs -> one tidy DataFrame (`frame`) -> figures (`charts`) -> one page (`page`)."""
