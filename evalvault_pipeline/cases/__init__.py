"""1. What is evaluated: cases, the files they come from, the batches they are cut into."""
