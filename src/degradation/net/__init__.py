"""Networks: from an architecture, or from a checkpoint of whatever code."""
