"""What the trainers of all hosts share.

`start`           what a run says as it begins
`files`           names of what a run leaves
`rejected`        the rows that a run refused, each with its reason
`image_check`     a broken image is met before training
`checkpoints`     resuming a full fine-tuning exactly
`resume`          a run resumes with the objective it was begun with
`first_step`      a run that starts from its reference has margin 0 there
`model_card`      the section on ASPO in a run's model card
`randomness`      work before training that must not change what training draws
`adapters`        LoRA under mixed precision without float32 copies of every input
`dropout`         dropout that no module holds
"""
