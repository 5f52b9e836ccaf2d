"""How the shipped nano backbone was made: glyph classification, its images, its training and its evaluation."""
