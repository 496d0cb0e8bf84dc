"""What the options of the pre-training decoder save and cost: step time, held-out loss, a probe of the encoder."""
