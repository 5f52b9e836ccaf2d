"""What classifies: readouts of features, and the names that a pair of learner and readout goes by."""
