//! The Rust types of the interface say what the committed definition says.

use pcpm_api::{INTERFACE, types};
use zlink::{
    idl::{CustomType, Interface, Type},
    introspect::{CustomType as _, Type as _},
};

fn interface() -> Interface<'static> {
    INTERFACE.try_into().unwrap()
}

/// Name and type of fields, which is what travels; comments do not.
fn shape<'a>(fields: impl Iterator<Item = &'a zlink::idl::Field<'a>>) -> Vec<(String, String)> {
    fields
        .map(|field| (field.name().to_string(), field.ty().to_string()))
        .collect()
}

fn shape_of(ty: &Type<'_>) -> Vec<(String, String)> {
    match ty {
        Type::Object(fields) => shape(fields.iter()),
        other => panic!("{other} is no object"),
    }
}

fn shape_of_custom(ty: &CustomType<'_>) -> Vec<(String, String)> {
    match ty {
        CustomType::Object(object) => shape(object.fields()),
        CustomType::Enum(_) => panic!("an enum is no object"),
    }
}

#[test]
fn every_type_of_the_definition_has_a_rust_type_of_the_same_shape() {
    let rust = [
        types::OnEmpty::CUSTOM_TYPE,
        types::Lease::CUSTOM_TYPE,
        types::TargetMode::CUSTOM_TYPE,
        types::SharedNamespace::CUSTOM_TYPE,
        types::DefaultPolicy::CUSTOM_TYPE,
        types::Source::CUSTOM_TYPE,
        types::SlotState::CUSTOM_TYPE,
        types::PublishedPort::CUSTOM_TYPE,
        types::Traffic::CUSTOM_TYPE,
        types::Flows::CUSTOM_TYPE,
        types::Attachment::CUSTOM_TYPE,
        types::Slot::CUSTOM_TYPE,
        types::SlotCounts::CUSTOM_TYPE,
        types::Latency::CUSTOM_TYPE,
        types::AttachTotals::CUSTOM_TYPE,
        types::RefillTotals::CUSTOM_TYPE,
        types::Pacing::CUSTOM_TYPE,
        types::UncleanCount::CUSTOM_TYPE,
        types::RecycleTotals::CUSTOM_TYPE,
        types::Memory::CUSTOM_TYPE,
        types::FlowTable::CUSTOM_TYPE,
        types::Uplink::CUSTOM_TYPE,
        types::DropCount::CUSTOM_TYPE,
        types::DroppedPackets::CUSTOM_TYPE,
        types::WarmTarget::CUSTOM_TYPE,
        types::Reservation::CUSTOM_TYPE,
        types::ClassPolicy::CUSTOM_TYPE,
        types::ClassStatus::CUSTOM_TYPE,
        types::WaitingRequest::CUSTOM_TYPE,
        types::LockWaits::CUSTOM_TYPE,
        types::LockWaiter::CUSTOM_TYPE,
        types::LockBlocker::CUSTOM_TYPE,
        types::LongWait::CUSTOM_TYPE,
        types::LockFrame::CUSTOM_TYPE,
        types::Failure::CUSTOM_TYPE,
        types::Status::CUSTOM_TYPE,
        types::TimeCount::CUSTOM_TYPE,
        types::StepTimes::CUSTOM_TYPE,
        types::StartPhase::CUSTOM_TYPE,
        types::PhaseTime::CUSTOM_TYPE,
        types::ContainerStarts::CUSTOM_TYPE,
        types::SlotUsage::CUSTOM_TYPE,
        types::TenantQuota::CUSTOM_TYPE,
        types::Event::CUSTOM_TYPE,
        types::CheckStatus::CUSTOM_TYPE,
        types::Check::CUSTOM_TYPE,
    ];
    let definition = interface();
    let described: Vec<_> = definition.custom_types().collect();
    assert_eq!(described.len(), rust.len());
    for (described, rust) in described.into_iter().zip(rust) {
        assert_eq!(described.name(), rust.name());
        match (described, rust) {
            (CustomType::Object(described), CustomType::Object(rust)) => {
                assert_eq!(
                    shape(described.fields()),
                    shape(rust.fields()),
                    "{}",
                    rust.name()
                );
            }
            (CustomType::Enum(described), CustomType::Enum(rust)) => {
                let words = |e: &zlink::idl::CustomEnum<'_>| -> Vec<String> {
                    e.variants()
                        .map(|variant| variant.name().to_string())
                        .collect()
                };
                assert_eq!(words(described), words(rust), "{}", rust.name());
            }
            _ => panic!("{} is of another kind", rust.name()),
        }
    }
}

#[test]
fn every_method_of_the_definition_takes_and_gives_what_the_rust_types_say() {
    let flat = |ty: &[(&str, &str)]| -> Vec<(String, String)> {
        let attachment = shape_of_custom(types::Attachment::CUSTOM_TYPE);
        let more = ty
            .iter()
            .map(|&(name, ty)| (name.to_owned(), ty.to_owned()));
        attachment.into_iter().chain(more).collect()
    };
    let fd = ("netns_fd", "?int");
    let expected = [
        ("Attach", shape_of(types::AttachRequest::TYPE), flat(&[fd])),
        ("Detach", shape_of(types::DetachRequest::TYPE), vec![]),
        ("Update", shape_of(types::UpdateRequest::TYPE), flat(&[])),
        (
            "Get",
            shape_of(types::GetRequest::TYPE),
            flat(&[("traffic", "Traffic"), ("flows", "Flows"), fd]),
        ),
        (
            "ReportStart",
            shape_of(types::ReportStartRequest::TYPE),
            vec![],
        ),
        (
            "List",
            shape_of(types::ListRequest::TYPE),
            shape_of(types::ListReply::TYPE),
        ),
        (
            "Status",
            vec![],
            shape_of_custom(types::Status::CUSTOM_TYPE),
        ),
        (
            "Watch",
            shape_of(types::WatchRequest::TYPE),
            shape_of(types::WatchFrame::TYPE),
        ),
        (
            "Drops",
            shape_of(types::DropsRequest::TYPE),
            shape_of(types::DropsReply::TYPE),
        ),
        (
            "Locks",
            shape_of(types::LocksRequest::TYPE),
            shape_of(types::LocksReply::TYPE),
        ),
        (
            "Drain",
            shape_of(types::DrainRequest::TYPE),
            shape_of(types::DrainReply::TYPE),
        ),
        (
            "Resize",
            shape_of(types::ResizeRequest::TYPE),
            shape_of(types::ResizeReply::TYPE),
        ),
        ("Retire", shape_of(types::RetireRequest::TYPE), vec![]),
        ("Reload", vec![], shape_of(types::ReloadReply::TYPE)),
        ("Doctor", vec![], shape_of(types::DoctorReply::TYPE)),
    ];
    let definition = interface();
    let methods: Vec<_> = definition.methods().collect();
    assert_eq!(methods.len(), expected.len());
    for (method, (name, inputs, outputs)) in methods.into_iter().zip(expected) {
        assert_eq!(method.name().to_string(), name);
        assert_eq!(shape(method.inputs()), inputs, "parameters of {name}");
        assert_eq!(shape(method.outputs()), outputs, "reply of {name}");
    }
}

#[test]
fn the_definition_of_the_service_interface_is_valid() {
    let text = include_str!("org.varlink.service.varlink");
    assert_eq!(Interface::try_from(text).unwrap().methods().count(), 2);
}
