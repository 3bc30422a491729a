"""The API's routes to chats and runs."""

from django.urls import path

from chat.views import Me
from runs.api import ai_sdk, views
from runs.api.feed_view import Feed

urlpatterns = [
    path("me", Me.as_view()),
    path("models", views.Models.as_view()),
    path("events", Feed.as_view()),
    path("roles", views.RoleList.as_view()),
    path("chats", views.ChatList.as_view()),
    path("chats/<uuid:chat>", views.ChatDetail.as_view()),
    path("chats/<uuid:chat>/messages", views.ChatMessages.as_view()),
    path("chats/<uuid:chat>/export", views.ChatExport.as_view()),
    path("chats/<uuid:chat>/runs", views.ChatRuns.as_view()),
    path("chats/<uuid:chat>/run", views.ChatLatestRun.as_view()),
    path("chats/<uuid:chat>/stop", views.ChatStopDoor.as_view()),
    path("chat", ai_sdk.ChatSendDoor.as_view()),
    path("chat/<uuid:chat>/stream", ai_sdk.ChatStreamDoor.as_view()),
    path("runs", views.RunList.as_view()),
    path("runs/<uuid:run>", views.RunDetail.as_view()),
    path("runs/<uuid:run>/steps", views.RunSteps.as_view()),
    path("runs/<uuid:run>/stream", views.RunStream.as_view()),
    path("runs/<uuid:run>/wait", views.RunWait.as_view()),
    path("runs/<uuid:run>/stop", views.RunStop.as_view()),
]
