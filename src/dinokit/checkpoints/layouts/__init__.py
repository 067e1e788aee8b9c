"""One file a published key layout, each with the functions of `Layout`."""
