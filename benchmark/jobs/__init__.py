"""From rows and seeds to records: plan, identity, fit, evaluation, measurement."""
