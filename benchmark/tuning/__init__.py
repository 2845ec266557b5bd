"""Settings chosen with equal effort: the same number of trials for every prior, judged on the validation split."""
