"""Colours of all pictures: Okabe and Ito's, which colour-blind people tell apart.

M. Okabe and K. Ito (2008), Color Universal Design.
"""

BLUE, VERMILION, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, BLACK, GREY = "#e69f00", "#56b4e9", "#000000", "#7f7f7f"
SERIES = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK, GREY)


def of(number: int) -> str:
    """Returns the colour of a series; the ninth has the first one's again."""
    return SERIES[number % len(SERIES)]
