"""Speed and size, measured side by side with their floor in one run; printed, never asserted."""
