"""Networks around one operator: drawn layers before it, beside it and behind it, and masks for them."""
