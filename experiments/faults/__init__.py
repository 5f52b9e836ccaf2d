"""Kill and hurt a small run in many ways; each must end with the same bits."""
