"""Which new training images made old test images worse (docs/theory.md, section 2.6).

`network` (old scores and new views as functions of one set of parameters, each weighed to a single number), `look` (one
later task: influences, classes, parameter groups), `coreset` (which old images would be worth remembering), `pictures`
(the images of the strongest pairs, small), `engine` (the whole run, into `RUN/analysis/influence.json`), `cost` (what
that would take), `table` (what it means).
"""
