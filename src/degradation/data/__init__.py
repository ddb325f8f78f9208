"""Images, and the batches that both arms of a pair share."""
