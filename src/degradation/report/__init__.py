"""From records to statistics, verdicts, figures and pages; nothing here knows torch."""
