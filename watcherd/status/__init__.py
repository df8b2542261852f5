"""What people are shown of the service as it is now; and `doctor`."""
