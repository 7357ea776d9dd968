"""One thin file per verb: options -> configuration -> one call -> print."""
