"""Images as encoded bytes: found, checked by their headers, taken out of archives."""
