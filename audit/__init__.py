"""What the project is built from: `make audit` (docs/supply-chain.md). Development only; no part of the package."""
