"""Nothing is missed and nothing answered is lost: histories recorded under faults, held to the named promises."""
