"""Why things go or stay: from an analysis to the parts of a report. Prints nothing."""
