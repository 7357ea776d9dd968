"""Studies: a grid of pretrainings and evaluations, as data, and doing what is missing of it.

definition  the grid, and the cells that it comes to
progress    which cells are done
cost        what the rest takes
conductor   doing it
builtin/    the studies that come with the program
"""
