"""The look-up service: precomputed answers in about a millisecond, exact ones for a miss."""
