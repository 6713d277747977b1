//! Turns recorded outputs, in task order, into a project's one result.
