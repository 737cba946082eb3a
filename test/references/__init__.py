"""References the tests compare with: plain NumPy in float64, and graph makers."""
