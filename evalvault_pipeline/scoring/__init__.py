"""2. How good it is: metrics, the engine that computes them, the store that keeps them."""
