"""What views of the jobs share: what their words mean."""
