"""`ntkcl train PRESET --rehearse`: the whole cell at full size, a few steps per task, on noise instead of images.

`stage` sets it up, `clock` measures, `play` runs `run.train` itself and takes it up again, `report` tells.
"""
