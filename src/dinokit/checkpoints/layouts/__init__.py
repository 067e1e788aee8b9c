"""One file a published key layout."""
