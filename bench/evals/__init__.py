"""How good the answers of workflows are, and how far reuse moves them."""
