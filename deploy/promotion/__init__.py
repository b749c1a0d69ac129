"""What each environment serves: promote, roll back, the gate between."""
