"""A page with the figures of benchmarks: HTML with SVG and CSS of its own, nothing from outside."""
