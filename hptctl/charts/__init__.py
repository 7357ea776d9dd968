"""Drawing that is not one command's own: charts as SVG, maps, contact sheets."""
