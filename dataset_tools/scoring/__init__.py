"""`aspo-data score`: similarity of each sentence with its image, by a dual encoder."""
