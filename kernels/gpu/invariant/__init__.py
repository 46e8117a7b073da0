"""Products and attention whose sums have one order for a row, whatever else is in the batch."""
