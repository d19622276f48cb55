"""What would be cheaper: caching, context, routing, outliers."""
