"""What trains inside the frozen backbone: one learner a file."""
