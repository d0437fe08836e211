"""Colors of figures: Okabe and Ito's palette, gray for no block."""

# Okabe & Ito's palette, grey for no block: the colours stay apart for every common kind of colour blindness.
BASELINE_COLOUR = "#8a8f98"
COLOURS = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b8a800", "#7a5195")
