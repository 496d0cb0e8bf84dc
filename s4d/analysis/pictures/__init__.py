"""Pictures of a fine-tuned model at work: arrays computed once by `s4d analyze pictures`, drawn by `s4d report`."""
