//! Which request asks for what? One line per route; the paths are [`labsan_api::paths`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use labsan_api::VolumePath;
use labsan_api::array::{CreateArray, MemberChange, StartArrays};
use labsan_api::event::{EventQuery, MAX_WAIT_SECONDS};
use labsan_api::paths;
use labsan_api::reservation::ReservationQuery;
use labsan_api::target::{
    AccessChange, ChapAccount, CreateTarget, LunPlace, MapLun, RemoveAccount, SetChap, SetPathState, Unmask,
};
use labsan_api::volume::{CreateVolume, ResizeVolume};

use super::on_worker;
use crate::error::Failure;
use crate::limits::MAX_REQUEST_BYTES;
use crate::ops::{arrays, assembly, disks, members, portals, reservations, status, targets, volumes};
use crate::state::Daemon;

type Answer = Result<Response, Failure>;
type Here = State<Arc<Daemon>>;

/// A body; what cannot be understood is refused in our own words.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Failure))]
struct Body<T>(T);

/// Names in the path, likewise.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(Failure))]
struct Named<T>(T);

/// A query, likewise.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(Failure))]
struct Asked<T>(T);

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self::Request(rejection.body_text())
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self::Request(rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::Request(rejection.body_text())
    }
}

/// All routes.
pub(super) fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route(paths::STATUS, get(get_status))
        .route(paths::EVENTS, get(get_events))
        .route(paths::DISKS, get(get_disks))
        .route(paths::ARRAYS, get(get_arrays).post(create_array))
        .route(paths::START, post(start_arrays))
        .route(paths::ARRAY, get(get_array).delete(delete_array))
        .route(paths::ARRAY_STOP, post(stop_array))
        .route(paths::ARRAY_FAIL, post(fail_member))
        .route(paths::ARRAY_REMOVE, post(remove_member))
        .route(paths::ARRAY_ADD, post(add_member))
        .route(paths::VOLUMES, get(get_volumes).post(create_volume))
        .route(paths::VOLUME, patch(resize_volume).delete(delete_volume))
        .route(paths::TARGETS, get(get_targets).post(create_target))
        .route(paths::TARGET, delete(delete_target))
        .route(paths::TARGET_ALLOW, post(allow))
        .route(paths::TARGET_DENY, post(deny))
        .route(paths::TARGET_CHAP, put(set_chap).post(add_account))
        .route(paths::TARGET_ACCOUNT, delete(remove_account))
        .route(paths::TARGET_STATE, put(set_state))
        .route(paths::LUNS, get(get_luns).post(map_lun))
        .route(paths::LUN, delete(unmap_lun))
        .route(paths::MASK, put(mask).delete(unmask))
        .route(paths::PORTALS, get(get_portals))
        .route(paths::SESSIONS, get(get_sessions))
        .route(paths::SESSION, delete(drop_session))
        .route(paths::RESERVATIONS, get(get_reservations))
        .route(paths::VOLUME_RESERVATIONS, delete(clear_reservations))
        .route(paths::RESERVATION, delete(purge_reservation))
        .fallback(async || Failure::Request("there is nothing at this path".into()).into_response())
        .layer(middleware::from_fn(take_whole))
        .with_state(daemon)
}

/// Take in all of a request before it is answered, whether its body is wanted or not: closing a socket that still holds some of it
/// would reset the connection, and the caller might never see the answer.
async fn take_whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match axum::body::to_bytes(body, MAX_REQUEST_BYTES).await {
        Ok(body) => next.run(Request::from_parts(head, body.into())).await,
        Err(error) => Failure::Request(format!(
            "the request's body was not received whole, or is longer than {MAX_REQUEST_BYTES} bytes: {error}"
        ))
        .into_response(),
    }
}

async fn get_status(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(status::status(&daemon).await)).await
}

/// The log needs no worker: waiting here keeps nobody else waiting.
async fn get_events(State(daemon): Here, Asked(query): Asked<EventQuery>) -> Answer {
    let patience = Duration::from_secs(query.wait_seconds.min(MAX_WAIT_SECONDS));
    let events = daemon.events.wait(query.after, patience).await;
    Ok(axum::Json(labsan_api::Reply::new(events)).into_response())
}

async fn get_disks(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(disks::list(&daemon).await)).await
}

async fn get_arrays(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(arrays::list(&daemon).await)).await
}

async fn create_array(State(daemon): Here, Body(request): Body<CreateArray>) -> Answer {
    on_worker(&daemon, async move |daemon| arrays::create(&daemon, request).await).await
}

async fn start_arrays(State(daemon): Here, Body(request): Body<StartArrays>) -> Answer {
    on_worker(&daemon, async move |daemon| assembly::start(&daemon, request).await).await
}

async fn get_array(State(daemon): Here, Named(name): Named<String>) -> Answer {
    on_worker(&daemon, async move |daemon| arrays::show(&daemon, &name).await).await
}

async fn delete_array(State(daemon): Here, Named(name): Named<String>) -> Answer {
    on_worker(&daemon, async move |daemon| arrays::delete(&daemon, &name).await).await
}

async fn stop_array(State(daemon): Here, Named(name): Named<String>) -> Answer {
    on_worker(&daemon, async move |daemon| arrays::stop(&daemon, &name).await).await
}

async fn fail_member(
    State(daemon): Here,
    Named(name): Named<String>,
    Body(change): Body<MemberChange>,
) -> Answer {
    on_worker(&daemon, async move |daemon| members::fail(&daemon, &name, &change).await).await
}

async fn remove_member(
    State(daemon): Here,
    Named(name): Named<String>,
    Body(change): Body<MemberChange>,
) -> Answer {
    on_worker(&daemon, async move |daemon| members::remove(&daemon, &name, &change).await).await
}

async fn add_member(
    State(daemon): Here,
    Named(name): Named<String>,
    Body(change): Body<MemberChange>,
) -> Answer {
    on_worker(&daemon, async move |daemon| members::add(&daemon, &name, change).await).await
}

async fn get_volumes(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(volumes::list(&daemon))).await
}

async fn create_volume(State(daemon): Here, Body(request): Body<CreateVolume>) -> Answer {
    on_worker(&daemon, async move |daemon| volumes::create(&daemon, request).await).await
}

async fn resize_volume(
    State(daemon): Here,
    Named((array, volume)): Named<(String, String)>,
    Body(request): Body<ResizeVolume>,
) -> Answer {
    let name = VolumePath::new(&array, &volume)?;
    on_worker(&daemon, async move |daemon| volumes::resize(&daemon, &name, request).await).await
}

async fn delete_volume(State(daemon): Here, Named((array, volume)): Named<(String, String)>) -> Answer {
    let name = VolumePath::new(&array, &volume)?;
    on_worker(&daemon, async move |daemon| volumes::delete(&daemon, &name).await).await
}

async fn get_targets(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(targets::list(&daemon))).await
}

async fn create_target(State(daemon): Here, Body(request): Body<CreateTarget>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::create(&daemon, request).await).await
}

async fn delete_target(State(daemon): Here, Named(iqn): Named<String>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::delete(&daemon, &iqn).await).await
}

async fn allow(State(daemon): Here, Named(iqn): Named<String>, Body(request): Body<AccessChange>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::allow(&daemon, &iqn, request).await).await
}

async fn deny(State(daemon): Here, Named(iqn): Named<String>, Body(request): Body<AccessChange>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::deny(&daemon, &iqn, request).await).await
}

async fn set_chap(State(daemon): Here, Named(iqn): Named<String>, Body(request): Body<SetChap>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::chap(&daemon, &iqn, request).await).await
}

async fn add_account(
    State(daemon): Here,
    Named(iqn): Named<String>,
    Body(request): Body<ChapAccount>,
) -> Answer {
    on_worker(&daemon, async move |daemon| targets::add_account(&daemon, &iqn, request).await).await
}

async fn remove_account(
    State(daemon): Here,
    Named((iqn, user)): Named<(String, String)>,
    Asked(request): Asked<RemoveAccount>,
) -> Answer {
    on_worker(&daemon, async move |daemon| targets::remove_account(&daemon, &iqn, &user, request).await).await
}

async fn set_state(
    State(daemon): Here,
    Named(iqn): Named<String>,
    Body(request): Body<SetPathState>,
) -> Answer {
    on_worker(&daemon, async move |daemon| targets::set_state(&daemon, &iqn, request.state).await).await
}

async fn get_luns(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(targets::luns(&daemon))).await
}

async fn map_lun(State(daemon): Here, Body(request): Body<MapLun>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::map(&daemon, request).await).await
}

async fn unmap_lun(
    State(daemon): Here,
    Named((iqn, lun)): Named<(String, u16)>,
    Asked(place): Asked<LunPlace>,
) -> Answer {
    on_worker(&daemon, async move |daemon| targets::unmap(&daemon, &iqn, lun, place).await).await
}

async fn mask(State(daemon): Here, Named((iqn, initiator)): Named<(String, String)>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::mask(&daemon, &iqn, &initiator).await).await
}

async fn unmask(
    State(daemon): Here,
    Named((iqn, initiator)): Named<(String, String)>,
    Asked(request): Asked<Unmask>,
) -> Answer {
    on_worker(&daemon, async move |daemon| targets::unmask(&daemon, &iqn, &initiator, request).await).await
}

async fn get_portals(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(portals::list(&daemon))).await
}

async fn get_sessions(State(daemon): Here) -> Answer {
    on_worker(&daemon, async |daemon| Ok(targets::sessions(&daemon))).await
}

async fn drop_session(State(daemon): Here, Named(id): Named<String>) -> Answer {
    on_worker(&daemon, async move |daemon| targets::drop_session(&daemon, &id).await).await
}

async fn get_reservations(State(daemon): Here, Asked(query): Asked<ReservationQuery>) -> Answer {
    on_worker(&daemon, async move |daemon| reservations::list(&daemon, query)).await
}

async fn purge_reservation(
    State(daemon): Here,
    Named((array, volume, key)): Named<(String, String, String)>,
) -> Answer {
    let name = VolumePath::new(&array, &volume)?;
    on_worker(&daemon, async move |daemon| reservations::purge(&daemon, &name, &key).await).await
}

async fn clear_reservations(State(daemon): Here, Named((array, volume)): Named<(String, String)>) -> Answer {
    let name = VolumePath::new(&array, &volume)?;
    on_worker(&daemon, async move |daemon| reservations::clear(&daemon, &name).await).await
}
