"""What to do next about a run: `ntk-analysis advise`.

`left_out` compares readouts on images that are left out in turn, `facts` gathers what is known of each method, `rules`
say what is wrong, `words` say it, `again` is the command that trains the run again with changes, `engine` does it all.
"""
