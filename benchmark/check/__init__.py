"""The contract that any prior is held to, targets of known density, and the template that passes."""
