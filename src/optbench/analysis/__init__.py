"""Records of runs → numbers with their uncertainties; reads a store, needs no torch."""
