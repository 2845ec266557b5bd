"""What priors are built of and share: energies, flows, Langevin chains, resampling, early stopping."""
