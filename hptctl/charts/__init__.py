"""Charts and pictures, for the report and for commands.

style          size, type, colours and markers
bars           figures, or differences, one below the other
curves         figures against steps or categories, losses, measures
maps           features in the plane, and layers against layers
sweep          the plots of a sweep
contact_sheet  images, with what became of them
svg            a chart as SVG for a page, or saved as a file
drawing        charts drawn by several processes
"""
